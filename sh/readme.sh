#!/usr/bin/env bash
# README.md from nbs/index.ipynb, without Quarto (nbdev_readme does the same where Quarto is installed).
set -euo pipefail
cd "$(dirname "$0")/.."
rm -f nbs/images/README_*.png
jupyter nbconvert --to markdown nbs/index.ipynb --output-dir . --output README --log-level WARN \
  --NbConvertApp.output_files_dir=nbs/images \
  --RegexRemovePreprocessor.enabled=True --RegexRemovePreprocessor.patterns='^#\| *hide'
sed -i -E 's#\]\(([a-z]+/)?([a-z0-9_]*[.]ipynb)#](nbs/\1\2#g' README.md
sed -i -E 's#\]\((images/[a-z0-9_]+[.](png|gif))#](nbs/\1#g' README.md
sed -i 's#!\[png\]#![Slices of a head MRI in three directions, with three masks]#' README.md
sed -i -z 's/\n\n```\n/\n\n```python\n/g; s/\n\n\n*/\n\n/g' README.md
