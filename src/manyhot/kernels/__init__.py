"""Faster ways to compute what the eager formulas say. No choice between them is made here.

The C++ is compiled once for each instruction set, and the best is taken at load: GCC lowers vector types before it
clones functions for targets. It shares torch's OpenMP runtime, as both ask for libgomp.so.1.
"""
