"""Cases for the options and recipes of run_pretrain.py: what is told before any data are read."""

from __future__ import annotations

from tests.bad_input.case import Case

RUN = "--recipe tiny --output_dir out"


def option(what: str, words: str, *told: str) -> Case:
    """A mistake in the words after those of a good run."""
    return Case(what, f"{RUN} {words}", told)


def recipe(what: str, text: str | bytes, *told: str) -> Case:
    """A mistake in a recipe of one's own."""
    return Case(what, "--recipe mine.yaml --output_dir out", told, files={"mine.yaml": text})


def deepspeed(what: str, text: str | bytes, *told: str) -> Case:
    """A mistake in a DeepSpeed configuration."""
    return Case(what, f"{RUN} --deepspeed ds.json", ("--deepspeed: ", "ds.json", *told), files={"ds.json": text})


DOOR = [
    Case("nothing", "", ("say first what to pretrain: bert",)),
    Case("an unknown family, as a user starts it", "brt", ("'brt'", "did you mean 'bert'?"), is_process=True),
    Case("an option in the place of the family", "--recipe tiny", ("say first what to pretrain",)),
]

BERT = [
    Case("no output folder", "--recipe tiny", ("--output_dir: name the folder", "runs/tiny")),
    Case("an empty output folder", "--recipe tiny --output_dir ''", ("--output_dir: name the folder",)),
    Case("an unknown recipe", "--recipe tyni --output_dir out", ("'tyni'", "did you mean 'tiny'?")),
    Case("an empty recipe", "--recipe '' --output_dir out", ("--recipe: ", "''", "leave the option out")),
    Case("a recipe that is not there", "--recipe no.yaml --output_dir out", ("--recipe: the file 'no.yaml' does not",)),
    Case("a folder for a recipe", "--recipe thesis/ --output_dir out", ("'thesis/' is a folder; name a .yaml file",)),
    option("an unknown option", "--outputdir x", "'--outputdir'", "did you mean '--output_dir'?"),
    option("a stray word", "word", "unknown argument 'word'", "--help"),
    option("an option without its value", "--learning_rate", "--learning_rate: expected one argument"),
    option("words for a number", "--max_steps ten", "--max_steps: invalid int value: 'ten'"),
    option("words for a truth", "--use_cpu maybe", "--use_cpu: ", "maybe", "true/false"),
    option("no steps", "--max_steps 0", "--max_steps: 0 is out of range; give 1 or more"),
    option("a negative rate", "--learning_rate -1", "--learning_rate: -1 is out of range; give 0 or more"),
    option("a rate of NaN", "--learning_rate nan", "--learning_rate: nan is out of range"),
    option("an infinite rate", "--learning_rate inf", "--learning_rate: inf is out of range; give a finite number"),
    option("a log every -1 steps", "--logging_steps -1", "--logging_steps: -1 is out of range; give a number of steps"),
    option("a log every inf steps", "--logging_steps inf", "--logging_steps: inf is out of range"),
    option("a checkpoint every -5 steps", "--save_steps -5", "--save_steps: -5 is out of range"),
    option("an evaluation every nan steps", "--eval_steps nan", "--eval_steps: nan is out of range"),
    option("an evaluation delayed by -1", "--eval_delay -1", "--eval_delay: -1 is out of range; give 0 or more"),
    option("-1 checkpoints kept", "--save_total_limit -1", "--save_total_limit: -1 is out of range; give 1 or more"),
    option("a negative seed", "--seed -1", "--seed: -1 is out of range; give between 0 and 4294967295"),
    option("a huge seed", "--seed 99999999999", "--seed: 99999999999 is out of range"),
    option("a share above 1", "--mask_probability 2", "--mask_probability: 2 is out of range; give between"),
    option("a share of NaN", "--valid_fraction nan", "--valid_fraction: nan is out of range", "such as 0.01"),
    option("no sequences in a step", "--global_batch_size 0", "--global_batch_size: 0", "choose a multiple of 1"),
    option("a negative vocabulary", "--vocab_size -3", "--vocab_size: -3 is out of range; give 1 or more"),
    option("no hours", "--max_hours nan", "--max_hours: nan is out of range; give hours above 0"),
    option("a huge model", "--dry_run --hidden_size 99999999999998", "--hidden_size: 99999999999998 is out of range"),
    option("endless layers", "--dry_run --num_hidden_layers 99999999", "--num_hidden_layers: 99999999 is out of range"),
    option("a width that its heads do not divide", "--dry_run --hidden_size 100 --num_attention_heads 3",
           "--hidden_size: 100 is not a multiple of --num_attention_heads 3; choose"),
    option("no such attention", "--dry_run --attn_implementation fast", "--attn_implementation: ", "'fast'", "leave"),
    option("two precisions", "--fp16 --bf16", "--fp16 True beside `--bf16 True`: choose one"),
    option("two lengths", "--max_hours 1 --max_steps 5", "--max_steps beside `--max_hours`", "choose one"),
    option("an unknown schedule", "--lr_scheduler_type cosin", "'cosin'", "did you mean 'cosine'?"),
    option("a schedule's unknown value", "--lr_scheduler_kwargs '{\"num\": 2}'", "--lr_scheduler_type linear", "'num'"),
    option("JSON that ends early", "--lr_scheduler_kwargs '{'", "--lr_scheduler_kwargs: '{' is not JSON", "write '{"),
    option("an unknown optimizer", "--optim adma", "--optim: unknown value 'adma'", "did you mean", "possible: "),
    option("an empty optimizer", "--optim ''", "--optim: unknown value ''", "possible: "),
    option("an optimizer's option without a value", "--optim_args beta1", "--optim_args: 'beta1' has no value",
           "write `beta1=VALUE`"),
    option("an optimizer's option misspelled", "--optim_args bta1=.9", "'bta1=.9'", "did you mean 'beta1'?"),
    option("an optimizer's option twice", "--optim_args beta1=.9,beta1=.8", "'beta1' stands there twice"),
    option("a beta above 1", "--optim_args beta1=2", "--optim_args: ", "beta1 must be in [0, 1), got 2.0"),
    option("a beta of NaN", "--optim_args beta1=nan", "beta1 must be in [0, 1), got nan"),
    option("JSON for an optimizer's options", "--optim_args '{\"beta1\": 2}'", "is not an option", "write name=value"),
    option("a negative epsilon", "--adam_epsilon -1", "--adam_epsilon: ", "eps must be a number, 0 or more, got -1.0"),
    option("no such figure", "--metric_for_best_model bleu", "--metric_for_best_model: unknown value 'bleu'; possible"),
    option("no such reporter", "--report_to tensorbord", "'tensorbord'", "did you mean 'tensorboard'?"),
    option("no access to the hub", "--push_to_hub", "--push_to_hub: ", "leave the option out"),
    option("a file for a model", "--dry_run --config_name file", "--config_name: 'file' is a file; name the folder"),
    option("a folder without a model", "--dry_run --config_name thesis", "no model configuration 'thesis'", "name a"),
    option("a model that is not there", "--dry_run --config_name no/such", "there is no folder 'no/such'"),
    option("a plan's option without a plan", "--plan_ranks 2", "--plan_ranks is of the plan: add `--dry_run`"),
    option("no such DeepSpeed file", "--deepspeed no.json", "--deepspeed: the file 'no.json' does not exist"),
    deepspeed("DeepSpeed: no JSON", '{"zero_optimization": {\n"stage" 2}}', "ds.json:2: not JSON", "give a file"),
    deepspeed("DeepSpeed: a list", "[]", "a configuration is a JSON object, found list"),
    deepspeed("DeepSpeed: Adan's block", '{"optimizer": {"type": "Adan", "params": {"betas": 5}}}', "take the block"),
    deepspeed("DeepSpeed: no such stage", '{"zero_optimization": {"stage": 7}}', "zero_optimization.stage", "found 7"),
    deepspeed("DeepSpeed: no ZeRO", '{"train_batch_size": 7}', 'it has no "zero_optimization"; give it one'),
    deepspeed("DeepSpeed: another batch", '{"train_micro_batch_size_per_gpu": 7, "zero_optimization": {"stage": 1}}',
              "is 7 there", 'write "auto"'),
    recipe("a recipe: no YAML", "seed: 1\nmax_steps: [", "mine.yaml:2: not a YAML file"),
    recipe("a recipe: not UTF-8", b"seed: \xff", "mine.yaml: not a YAML file"),
    recipe("a recipe: nothing", "", "mine.yaml: a recipe is a list of `option: value` lines, found nothing"),
    recipe("a recipe: a list", "- seed", "a recipe is a list of `option: value` lines, found list"),
    recipe("a recipe: a key twice", "seed: 1\nseed: 2\n", "mine.yaml:2: 'seed' stands in line 1 already; leave one"),
    recipe("a recipe: an unknown key", "seed: 1\nmax_stpes: 2\n", "mine.yaml:2: unknown key 'max_stpes'",
           "did you mean 'max_steps'?"),
    recipe("a recipe: words for a number", "seed: 1\nmax_steps: many\n", "mine.yaml:2: --max_steps: invalid int value"),
    recipe("a recipe: a number out of range", "seed: 1\nlogging_steps: -1\n", "mine.yaml:2: --logging_steps: -1"),
    recipe("a recipe: a list for one value", "seed: [1, 2]\n", "mine.yaml:1: 'seed' takes one value, found a list"),
    recipe("a recipe: a number for a name", "seed: 5\noptim: 5\n", "mine.yaml:2: --optim: unknown value '5'"),
    recipe("a recipe: an alias of itself", "lr_scheduler_kwargs: &a {b: *a}\n", "mine.yaml:1: ", "written as JSON"),
    recipe("a recipe: a command to run", "!!python/object/apply:os.system [echo]", "mine.yaml:1: not a YAML file"),
]  # fmt: skip

TRANSFORMER_XL = [
    Case("an unknown recipe", "--recipe wt103-bas --output_dir out", ("did you mean 'wt103-base'?",)),
    option("tokens that come back", "--cutoffs 300 100", "--cutoffs: 100 comes after 300"),
    option("a negative memory", "--mem_len -1", "--mem_len: -1"),
    option("no tokens in a segment", "--tgt_len 0", "--tgt_len: 0"),
    option("another family's option", "--block_size 32", "unknown option '--block_size'"),
    option("masks for a stream", "--metric_for_best_model perplexity", "'perplexity': give `loss`"),
    recipe("a recipe: a number out of range", "seed: 1\neval_steps: 0\n", "mine.yaml:2: --eval_steps: 0"),
]
LSTM = [
    Case("no output folder", "", ("--output_dir: name the folder",)),
    option("no layers", "--num_layers 0", "--num_layers: 0"),
    option("a dropout of 7", "--hidden_dropout 7", "--hidden_dropout: 7"),
    option("what an LSTM cannot", "--activation_checkpointing", "--activation_checkpointing: an LSTM", "leave it out"),
    option(
        "another kind of model", "--model_name_or_path model --dry_run", "'model' is a bert, not a awd_lstm; name one"
    ),
]
