"""Which normaliser should a network use when labels are noisy or the data change under it?"""

from importlib.metadata import version

__version__ = version("en_bench")
