"What holds for every test"
import os

os.environ.setdefault('MEDALS_SESSIONS', 'off')  # nothing of a test is offered to who works here
os.environ.setdefault('MEDALS_BACKEND', 'torch') # the same numbers on every machine

from hypothesis import settings  # noqa: E402

settings.register_profile('medals', deadline=None)  # how long an example takes says something of the machine, and nothing of medals
settings.load_profile('medals')
