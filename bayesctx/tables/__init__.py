"""Tables of a result: sites, counts, pair correlations, comparison with known sites, files."""

from .comparison import compare as compare
from .counting import counts as counts
from .drawn import check_result as check_result, crystal_of as crystal_of
from .pairs import PAIRS as PAIRS, pair_correlations as pair_correlations
from .site_table import FLAGS as FLAGS, sites as sites
from .species import name_species as name_species
from .table_files import FORMATS as FORMATS, check_format as check_format, export as export
