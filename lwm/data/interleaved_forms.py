"""What can become of a document of text and pictures on its way to a DreamLLM (2309.11499, section 3.2).

    joint           … text <dream_start> q … <dream_end> <image_start> v … <image_end> text …
    comprehension   pictures are seen: without q and what stands around them
    creation        pictures are drawn: without v and what stands around them; no text is learned
    pairs           by chance: all pictures, then all texts, as comprehension; or all texts first, as creation

Plain Python, as the fields of a stage are checked by it.
"""

FORMS = ("joint", "comprehension", "creation", "pairs")
