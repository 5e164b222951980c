"""The training doctor: from what a run recorded to a verdict with evidence and one remedy. Pure, without torch."""
