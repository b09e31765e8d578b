"""The verbs of `tvmc`, a module each: its flags (``add_arguments``), and what runs it (``execute``)."""
