// Precompiled for the kernels of each ISA level.
#include "ops/simd.h"
