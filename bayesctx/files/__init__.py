"""Files of images, and the context that they record."""

from .opening import read as read
from .recorded import recorded_context as recorded_context
