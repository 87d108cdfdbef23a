// One module: `-DMODULE=MODULE_f32`, or another one of `entries.cuh`. `kernels/build` makes them all.
#include "entries.cuh"

MODULE
