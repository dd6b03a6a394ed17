/* The passes over vectors for processors with AVX2. */

#include "passes.h"

#if defined(FOR_EACH_PROCESSOR)

#define LANES 8
#define FOR_PROCESSOR __attribute__((target("avx2,fma")))
#define VECTOR_TASKS vector_tasks_of_8
#include "vector_tasks.h"

#endif
