"""The stages between the plan and the commit, as functions from batch to batch."""
