"""Pictures of cases and their masks.

- `__main__`: writes the HTML page of all cases (a command).
- `page`: the page as text, with `page.css` and `page.js`.
- `pictures`: small pictures, and contours as SVG paths.
- `sheet`: draws the worst cases, or the largest gains and losses, as one picture (a command).
"""
