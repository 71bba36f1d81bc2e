"""Other people's files: proposal pickles and point text files, written for their programs and read into artifacts."""
