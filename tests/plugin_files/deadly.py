"""A plugin file: defenses that end or hold up the process that runs them."""

import os
import signal
import time

from benchmark.api import Config, Defense, defense


@defense("deadly")
class Deadly(Defense[Config]):
    """Kills its process, as the system does if memory runs out."""

    def purify(self, x, noise):
        os.kill(os.getpid(), signal.SIGKILL)
        return x


@defense("stalled")
class Stalled(Defense[Config]):
    """Never comes to an end."""

    def purify(self, x, noise):
        time.sleep(3600)
        return x


@defense("talkative")
class Talkative(Defense[Config]):
    """Prints a line."""

    def purify(self, x, noise):
        print("a line from the plugin")
        return x


@defense("slow")
class Slow(Defense[Config]):
    """Takes its time, so that a test can act while it runs, and prints."""

    def purify(self, x, noise):
        print("still here")
        time.sleep(0.05)
        return x


@defense("parent")
class Parent(Defense[Config]):
    """Ends its process, but not the child that it has started."""

    def purify(self, x, noise):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        print("before the end")
        os._exit(3)
