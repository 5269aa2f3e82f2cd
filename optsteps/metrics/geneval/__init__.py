"""GenEval (Ghosh et al., arXiv:2310.11513): the objects detected in an image, and what its prompt asks of them."""
