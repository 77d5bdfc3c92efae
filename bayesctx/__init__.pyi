"""What ``import bayesctx`` offers; ``__init__.py`` reads this list and loads names when used."""

from . import (
    abundance as abundance,
    archive as archive,
    checks as checks,
    cli as cli,
    composition as composition,
    context as context,
    crystal as crystal,
    defects as defects,
    distributions as distributions,
    encoder as encoder,
    evidence as evidence,
    exact as exact,
    files as files,
    fourier as fourier,
    inference as inference,
    information as information,
    likelihood as likelihood,
    matching as matching,
    metrics as metrics,
    micrograph as micrograph,
    model as model,
    multislice as multislice,
    nuisances as nuisances,
    optics as optics,
    parallel as parallel,
    plots as plots,
    prediction as prediction,
    prior as prior,
    raster as raster,
    report as report,
    responses as responses,
    scan as scan,
    series as series,
    simulation as simulation,
    storage as storage,
    tables as tables,
    tensors as tensors,
    training as training,
    transfer as transfer,
)
from .context import CONTEXT as CONTEXT, Detector as Detector, Probe as Probe
from .crystal import DOPANTS as DOPANTS, HOSTS as HOSTS
from .defects import DEFECTS as DEFECTS
from .distributions import log_uniform as log_uniform
from .evidence import Codoped as Codoped, check_context as check_context
from .exact import ExactModel as ExactModel
from .files import read as read
from .inference import (
    find_grains as find_grains,
    infer as infer,
    load as load,
    save as save,
    to_arviz as to_arviz,
)
from .information import (
    attribute_information as attribute_information,
    class_given_recordings as class_given_recordings,
    entropy as entropy,
    entropy_reduction as entropy_reduction,
    expected_information_gain as expected_information_gain,
    measure_information as measure_information,
    plot_attribution as plot_attribution,
)
from .metrics import (
    class_reliability as class_reliability,
    coverage as coverage,
    log_score as log_score,
    ranks as ranks,
    reliability as reliability,
)
from .model import DefectModel as DefectModel, load_model as load_model, save_model as save_model
from .multislice import column_image as column_image, multislice_image as multislice_image
from .plots import (
    plot_change as plot_change,
    plot_class_reliability as plot_class_reliability,
    plot_context as plot_context,
    plot_defects as plot_defects,
    plot_map as plot_map,
    plot_reliability as plot_reliability,
)
from .prediction import predict_images as predict_images
from .prior import (
    Prior as Prior,
    limit_prior as limit_prior,
    paper_prior as paper_prior,
    reference_prior as reference_prior,
    tmd_prior as tmd_prior,
)
from .report import write_report as write_report
from .series import (
    infer_blocks as infer_blocks,
    infer_series as infer_series,
    open_series as open_series,
    session_prior as session_prior,
    summarise as summarise,
)
from .simulation import simulate as simulate, simulate_micrograph as simulate_micrograph
from .tables import (
    compare as compare,
    counts as counts,
    export as export,
    pair_correlations as pair_correlations,
    sites as sites,
)
from .training import calibrate as calibrate, score_model as score_model, train as train

__version__: str
