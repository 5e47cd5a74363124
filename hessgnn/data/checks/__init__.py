"""Is a data set fit for training? Faults that would otherwise be found after it: units, signs, leaks, broken labels.

:func:`examine` reads each structure once and shows it to every check, so that memory does not grow with the Hessians.
Units and signs are judged by magnitude and by what ties the labels together (:mod:`hessgnn.data.checks.slopes`).
Nothing is dropped or mended: findings name what they concern, and the user decides.
"""

from hessgnn.data.checks.examine import Report, check, examine, require_sound
from hessgnn.data.checks.finding import Finding

__all__ = ["Finding", "Report", "check", "examine", "require_sound"]
