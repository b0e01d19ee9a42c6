__version__ = "0.1.0"

# The eleven names that most notebooks need, fetched when they are first used, so that `import medals` itself loads nothing.
# This module is written by hand: it has no notebook, since a page could show nothing but this table.
_HOMES = dict(
    Segmenter='segment', connect='serving.remote', Studio='widgets', Volume='volume', read_volume='volume', write_labels='volume',
    Point='spatial', Box='spatial', Scribble='spatial', Lasso='spatial', Mask='spatial')

__all__ = ['__version__', *_HOMES]


def __getattr__(name):
    "One of the eleven names, from the module where it lives"
    if name not in _HOMES:
        raise AttributeError(f"medals has no {name!r}; it hands on {', '.join(_HOMES)}, and modules such as medals.geometry")
    from importlib import import_module
    return getattr(import_module(f'medals.{_HOMES[name]}'), name)


def __dir__():
    "What is there, the eleven names included"
    return sorted({*globals(), *_HOMES})
