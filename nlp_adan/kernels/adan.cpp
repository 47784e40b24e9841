// Adan's update (nlp_adan/update.py has the equations) on many tensors in one pass over memory, on CPU threads.
// Per element: 24 bytes read, 20 written in float32, and nothing stored in between.
// Built by nlp_adan/kernels/cpu.py with the C++ compiler of the machine; plain C interface, no header of torch.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Elements of one piece of work: long enough for the hardware's prefetching, short enough to share out evenly.
constexpr int64_t kChunk = 32768;
// Elements widened to float32 at a time, when a tensor is narrower: five such buffers stay in the first-level cache.
constexpr int64_t kBlock = 512;

enum Dtype : int32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2, kFloat64 = 3 };

// In the order of nlp_adan.update.Coefficients.
template <typename T>
struct Coefficients {
    T decay1, gain1, decay2, gain2, decay3, gain3, keep;
    T step_size, step_size_diff, root_correction3, eps, shrink, factor;

    Coefficients(const double* c, double grad_factor)
        : decay1(c[0]), gain1(c[1]), decay2(c[2]), gain2(c[3]), decay3(c[4]), gain3(c[5]), keep(c[6]),
          step_size(c[7]), step_size_diff(c[8]), root_correction3(c[9]), eps(c[10]), shrink(c[11]),
          factor(c[12] * grad_factor) {}
};

template <typename T>
void update(T* __restrict p, const T* __restrict grad, T* __restrict m, T* __restrict v, T* __restrict n,
            T* __restrict neg_pre_grad, int64_t length, const Coefficients<T> c) {
    const bool keep = c.keep != 0;  // selected, not multiplied: a NaN times 0 would stay
    for (int64_t i = 0; i < length; i++) {
        const T g = grad[i] * c.factor;
        const T diff = keep ? neg_pre_grad[i] + g : T(0);
        const T m_k = (keep ? m[i] * c.decay1 : T(0)) + g * c.gain1;
        const T v_k = (keep ? v[i] * c.decay2 : T(0)) + diff * c.gain2;
        const T look_ahead = diff * c.decay2 + g;
        const T n_k = (keep ? n[i] * c.decay3 : T(0)) + look_ahead * look_ahead * c.gain3;
        const T denominator = std::sqrt(n_k) * c.root_correction3 + c.eps;
        p[i] -= (m_k * c.step_size + v_k * c.step_size_diff) / denominator + p[i] * c.shrink;
        m[i] = m_k;
        v[i] = v_k;
        n[i] = n_k;
        neg_pre_grad[i] = -g;
    }
}

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

void widen(const void* source, int32_t dtype, float* target, int64_t length) {
    if (dtype == kBfloat16) {
        const auto* from = static_cast<const uint16_t*>(source);
        for (int64_t i = 0; i < length; i++) target[i] = float_of(uint32_t(from[i]) << 16);
    }
#ifdef __FLT16_MANT_DIG__
    if (dtype == kFloat16) {
        const auto* from = static_cast<const _Float16*>(source);
        for (int64_t i = 0; i < length; i++) target[i] = float(from[i]);
    }
#endif
}

// Rounds to nearest, ties to even.
void narrow(const float* source, void* target, int32_t dtype, int64_t length) {
    if (dtype == kBfloat16) {
        auto* to = static_cast<uint16_t*>(target);
        for (int64_t i = 0; i < length; i++) {
            const uint32_t bits = bits_of(source[i]);
            const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
            to[i] = uint16_t((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
        }
    }
#ifdef __FLT16_MANT_DIG__
    if (dtype == kFloat16) {
        auto* to = static_cast<_Float16*>(target);
        for (int64_t i = 0; i < length; i++) to[i] = _Float16(source[i]);
    }
#endif
}

void join(const uint16_t* high, const int16_t* low, float* target, int64_t length) {
    for (int64_t i = 0; i < length; i++) target[i] = float_of((uint32_t(high[i]) << 16) + uint32_t(int32_t(low[i])));
}

// To the nearest bfloat16, ties away from zero, and what is left of the 32 bits.
void split(const float* source, uint16_t* high, int16_t* low, int64_t length) {
    for (int64_t i = 0; i < length; i++) {
        const uint32_t bits = bits_of(source[i]);
        const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
        const uint32_t upper = nan ? 0x7FC0 : (bits + 0x8000) >> 16;
        high[i] = uint16_t(upper);
        low[i] = int16_t(nan ? 0 : bits - (upper << 16));
    }
}

// A stretch of a tensor as float32: the tensor's own memory, or a widened copy.
struct Window {
    char* address;
    int32_t dtype;
    float buffer[kBlock];

    Window(void* tensor, int32_t dtype, int64_t offset)
        : address(static_cast<char*>(tensor) + offset * (dtype == kFloat32 ? 4 : 2)), dtype(dtype) {}
    float* load(int64_t at, int64_t length) {
        if (dtype == kFloat32) return reinterpret_cast<float*>(address) + at;
        widen(address + 2 * at, dtype, buffer, length);
        return buffer;
    }
    void store(int64_t at, int64_t length) {
        if (dtype != kFloat32) narrow(buffer, address + 2 * at, dtype, length);
    }
};

struct Dtypes {
    int32_t param, grad, state;
};

// Addresses of one parameter's tensors, in the order of nlp_adan.kernels.operands.Operands.
struct Tensors {
    void *param, *grad, *exp_avg, *exp_avg_diff, *exp_avg_sq, *neg_pre_grad, *low_bits;
};

void update_narrow(const Tensors& t, const Dtypes& dtypes, int64_t offset, int64_t length,
                   const Coefficients<float>& c) {
    Window param(t.param, dtypes.param, offset), grad(t.grad, dtypes.grad, offset);
    Window m(t.exp_avg, dtypes.state, offset), v(t.exp_avg_diff, dtypes.state, offset);
    Window h(t.neg_pre_grad, dtypes.state, offset);
    auto* n = static_cast<float*>(t.exp_avg_sq) + offset;
    auto* high = static_cast<uint16_t*>(t.param) + offset;
    auto* low = t.low_bits ? static_cast<int16_t*>(t.low_bits) + offset : nullptr;
    for (int64_t at = 0; at < length; at += kBlock) {
        const int64_t size = std::min(kBlock, length - at);
        float* p = param.buffer;
        if (low) join(high + at, low + at, p, size);
        else p = param.load(at, size);
        update(p, const_cast<const float*>(grad.load(at, size)), m.load(at, size), v.load(at, size), n + at,
               h.load(at, size), size, c);
        if (low) split(p, high + at, low + at, size);
        else param.store(at, size);
        m.store(at, size);
        v.store(at, size);
        h.store(at, size);
    }
}

template <typename T>
void update_uniform(const Tensors& t, int64_t offset, int64_t length, const Coefficients<T>& c) {
    auto at = [offset](void* tensor) { return static_cast<T*>(tensor) + offset; };
    update<T>(at(t.param), at(t.grad), at(t.exp_avg), at(t.exp_avg_diff), at(t.exp_avg_sq), at(t.neg_pre_grad),
              length, c);
}

void update_chunk(const Tensors& t, const Dtypes& dtypes, int64_t offset, int64_t length, const double* c,
                  double factor) {
    if (dtypes.param == kFloat64) {
        update_uniform<double>(t, offset, length, Coefficients<double>(c, factor));
    } else if (dtypes.param == kFloat32 && dtypes.grad == kFloat32 && dtypes.state == kFloat32) {
        update_uniform<float>(t, offset, length, Coefficients<float>(c, factor));
    } else {
        update_narrow(t, dtypes, offset, length, Coefficients<float>(c, factor));
    }
}

inline int64_t chunks_of(int64_t numel) { return (numel + kChunk - 1) / kChunk; }

}  // namespace

extern "C" int adan_has_float16() {
#ifdef __FLT16_MANT_DIG__
    return 1;
#else
    return 0;
#endif
}

// `coefficients`: 13 doubles a row; row t x `row_stride` / 13 belongs to tensor t, row 0 to all where the stride is 0.
// `grad_factor` may be null.
extern "C" void adan_step(int64_t num_tensors, const int64_t* numels, const Tensors* tensors, const Dtypes* dtypes,
                          const double* coefficients, int64_t row_stride, const double* grad_factor, int threads) {
    int64_t num_chunks = 0;
    for (int64_t t = 0; t < num_tensors; t++) num_chunks += chunks_of(numels[t]);
    const double factor = grad_factor ? *grad_factor : 1.0;
    threads = int(std::min<int64_t>(threads, num_chunks));

#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int64_t t = 0, first_chunk = 0;  // tensor of the chunk at hand, and the number of that tensor's first chunk
#pragma omp for schedule(dynamic)
        for (int64_t chunk = 0; chunk < num_chunks; chunk++) {
            while (chunk < first_chunk) first_chunk -= chunks_of(numels[--t]);
            while (chunk - first_chunk >= chunks_of(numels[t])) first_chunk += chunks_of(numels[t++]);
            const int64_t offset = (chunk - first_chunk) * kChunk;
            update_chunk(tensors[t], *dtypes, offset, std::min(kChunk, numels[t] - offset),
                         coefficients + t * row_stride, factor);
        }
    }
}
