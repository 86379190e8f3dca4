"""UniversalVTG: one head that grounds sentences in videos of seconds to hours, over frames of PE-Core."""
