/* The passes over vectors for processors with AVX-512. */

#include "passes.h"

#if defined(FOR_EACH_PROCESSOR)

#define LANES 16
#define FOR_PROCESSOR __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma")))
#define VECTOR_TASKS vector_tasks_of_16
#include "vector_tasks.h"

#endif
