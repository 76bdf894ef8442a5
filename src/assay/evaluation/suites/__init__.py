"""Published benchmarks and sets of one's own, all through one evaluator: cases in, one scoring call, rules, a Report."""
