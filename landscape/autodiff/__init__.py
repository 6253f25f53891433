"""How does any function bend, by automatic differentiation?

| module | question it answers |
| --- | --- |
| `objectives` | which function of which variables is studied? |
| `hessian` | what is its Hessian, dense or as a product with a direction? |
| `lanczos` | what is its spectrum without a matrix: density, index, trace, determinant? |
| `lobpcg` | what are its extreme eigenvalues, with every copy, and the ways to escape? |
| `matrix_free` | can these two be trusted with a function? |
"""
