"""What does the paper claim of linear VAEs, and does it hold?

| module | what it does |
| --- | --- |
| `experiments` | trains and studies the linear VAE |
| `measurements` | measures what C1 to C5 need beside that |
| `notebook` | runs the authors' own notebook again, beside what it printed |
| `claims` | judges C1 to C7 from saved tables |
"""
