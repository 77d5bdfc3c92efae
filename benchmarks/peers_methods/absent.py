"""What is not in the tables of the page, and why."""

__all__ = ["ABSENT"]

ABSENT = """\
- TabPFN 9.2.0 and TabICL 2.2.0: their wheels (0.85 and 0.31 MB) hold no weights; both download
  them from a hub at the first use, which the machine of this benchmark cannot reach. TabPFN takes
  at most ten classes by default besides; here there are thirteen.
- sbi's MNPE is for parameters of which some are continuous. For the class alone it is the mass
  estimator of the line "sbi, NPE"; with the context as parameters its answer for a part of the
  context would be an integral over the rest for every patch.
- sbi's NLE has no embedding of the data, only of the parameters: of 1024 pixels it needs a summary
  that is chosen before.
- AtomAI 0.8.1 and pyroVED 0.3.0 import torchvision, of which the registry has builds for CUDA only:
  beside a torch for the CPU the import ends with "operator torchvision::nms does not exist". They
  need only its Python part, so that the benchmark declares two operators
  (`peers_methods/image_libraries.py`), with which both are imported. AtomAI's
  `predict` returns classes; the probabilities are those of its `net`.
- The network of the paper: its code is not public. "CNN, context concatenated" is that method as
  far as it can be read.
"""
