"""The page: runs, samples and the start of both in a browser. Needs the extra ``studio``; free of MindSpore."""
