"""How a document looks: one column to read, tables that scroll where a screen is narrow, light and dark, print."""

from typing import Final

STYLE: Final = """
:root { --ink: #1d2433; --soft: #5b6577; --line: #dde1e8; --back: #ffffff; --panel: #f5f6f9; --good: #0b6e4f;
  --bad: #a4262c; --mark: #fff4d6; --link: #1f5fa8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #a4adbd; --line: #363d4a; --back: #15181e;
  --panel: #1e222b; --good: #5fc9a2; --bad: #f08b8f; --mark: #3d3420; --link: #8ab8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; color: var(--ink); background: var(--back);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header p { color: var(--soft); margin-top: 0; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav ol { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; margin: 1.2rem 0 0;
  font-size: .92rem; }
.banner { padding: .7rem 1rem; border-left: 4px solid var(--soft); background: var(--panel); font-weight: 600; }
.banner.good { border-color: var(--good); } .banner.bad { border-color: var(--bad); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem .42rem .4rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 500; }
td { overflow-wrap: break-word; }
tr.marked th, tr.marked td { background: var(--mark); }
figure { margin: 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: 1.6rem 1.2rem; margin: 1.2rem 0; align-items: start; }
img { max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); border-radius: 4px; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .3rem; }
@media (max-width: 40rem) { body { padding: 1.2rem .9rem 3rem; font-size: 15px; } h1 { font-size: 1.5rem; }
  td, th { min-width: 6.5rem; } }
@media print { nav { display: none; } body { max-width: none; }
  h2, figure, tr { break-inside: avoid; break-after: auto; }
  h2 { break-after: avoid; } }
"""
