"What holds for every test"
import os

os.environ.setdefault('MEDALS_SESSIONS', 'off')  # nothing of a test is offered to who works here
