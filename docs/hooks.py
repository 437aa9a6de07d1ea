"""Takes the figures of `experiments/`, which the pages show by their place in the repository, into the site."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]


def on_files(files, config):
  for path in sorted((ROOT / 'experiments').glob('*/figures/*.png')):
    files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
  return files


def on_page_markdown(markdown, **_):
  return markdown.replace('](../experiments/', '](experiments/')
