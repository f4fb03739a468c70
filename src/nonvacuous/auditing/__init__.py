"""The main job: plan the bounds, measure the evidence in as few passes as possible, certify, report."""
