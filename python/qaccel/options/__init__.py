"""What the user can choose, as frozen values, and how the command line's strings become them."""

from .limits import MINIMIZED as MINIMIZED
from .limits import Limits as Limits
from .parse import options_of as options_of
from .parse import parse_input_shapes as parse_input_shapes
from .parse import parse_input_values as parse_input_values
from .parse import parse_passes as parse_passes
from .parse import parse_target as parse_target
from .plans import bits_of as bits_of
from .plans import checked_plan as checked_plan
from .plans import parse_bits as parse_bits
from .plans import read_plan as read_plan
from .values import BITS_WITHOUT_DATA as BITS_WITHOUT_DATA
from .values import CALIBRATION_METHODS as CALIBRATION_METHODS
from .values import DEFAULT_BITS as DEFAULT_BITS
from .values import EFFORTS as EFFORTS
from .values import GUESSED_INPUT_RANGE as GUESSED_INPUT_RANGE
from .values import IO_DTYPES as IO_DTYPES
from .values import MODEL_FORMATS as MODEL_FORMATS
from .values import MODULE_SUFFIXES as MODULE_SUFFIXES
from .values import SESSION_SECONDS as SESSION_SECONDS
from .values import WIDTHS as WIDTHS
from .values import Bits as Bits
from .values import BitWidths as BitWidths
from .values import CompileOptions as CompileOptions
from .values import Data as Data
from .values import TargetOptions as TargetOptions
