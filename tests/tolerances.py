"""Every tolerance of the suite that is used twice, with its reason."""

# float64: differences of sums of some hundred terms; 1e-12 leaves four digits for cancellation
EXACT = 1e-12
# the same after an eigendecomposition or a Cholesky factorisation of a moderately conditioned
# matrix (condition numbers up to 1e4 are drawn)
FACTORED = 1e-9
# Monte Carlo: this many standard errors; one in 2 million by chance for a normal estimate
STANDARD_ERRORS = 5.0
