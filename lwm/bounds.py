"""What a file may claim of itself. A size beyond these is refused before anything of that size is made.

They are far above what honest files have, and low enough that no file takes a GiB of memory to be refused.
"""

JSON = 2**25  # bytes of a JSON text, or of one line of JSON lines: read, it takes up to thirty times as much
TOKENIZER = 2**26  # bytes of a tokenizer.json or a SentencePiece model
HEADER = 2**25  # bytes of the header of a safetensors file, which is JSON
ENTRIES = 2**16  # entries, and tensors, of a GGUF file
ITEMS = 2**20  # items of a list in a GGUF file: the longest is a vocabulary
PIXELS = 3 * 2**24  # of an image or of a frame of a video: a camera of 50 megapixels
SHAPE = 100  # times that a frame of a video may be as wide as high, or as high as wide
SAMPLES = 2**24  # of a waveform, all channels together, at its own rate and at the one that is asked for
UNPACKED = 2**26  # bytes of what a compressed file, or a block of one, unpacks to
EXPRESSIONS = 2**22  # bytes of a Python file
