"""Raw text in: files, folders and hub data sets as streams of documents, and documents to token ids, in parallel."""
