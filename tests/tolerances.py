"""Every tolerance of the suite that is used twice, with its reason."""

from landscape.testing.laws import EXACT, FACTORED

__all__ = ["EXACT", "FACTORED", "STANDARD_ERRORS"]

# Monte Carlo: this many standard errors; one in 2 million by chance for a normal estimate
STANDARD_ERRORS = 5.0
