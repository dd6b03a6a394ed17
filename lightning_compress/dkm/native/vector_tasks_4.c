/* The passes over vectors for any processor. */

#if defined(__GNUC__)

#define LANES 4
#define FOR_PROCESSOR
#define VECTOR_TASKS vector_tasks_of_4
#include "vector_tasks.h"

#endif
