/* Runs a pass over vectors as it was built for the processor that is there. */

#if defined(__GNUC__)

#include "vector_passes.h"

#include <string.h>

/* The widest that the processor has. */
static const VectorTasks *suited(void)
{
#if defined(FOR_EACH_PROCESSOR)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return &vector_tasks_of_16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &vector_tasks_of_8;
#endif
    return &vector_tasks_of_4;
}

int run_vector_pass(Fork fork, VectorPass *pass, PassKind kind)
{
    const int64_t size = pass->palette.clusters * (1 + pass->dimensions), totals = 2 + pass->dimensions;
    memset(pass->sums, 0, (size_t)(pass->parts * size) * sizeof(double));
    memset(pass->totals, 0, (size_t)(pass->parts * totals) * sizeof(double));
    const int usual = pass->dimensions == 2 ? 0 : pass->dimensions == 4 ? 1 : pass->dimensions == 8 ? 2 : 3;
    pass->next = 0;
    run(fork, pass->parts, (*suited())[kind][usual], pass);
    for (int64_t part = 1; part < pass->parts; part++) {
        for (int64_t i = 0; i < size; i++)
            pass->sums[i] += pass->sums[part * size + i];
        for (int64_t i = 0; i < totals; i++)
            pass->totals[i] += pass->totals[part * totals + i];
    }
    return (int)pass->failed;
}

#endif
