/* What the passes in C share: how they are exported, built for each processor, and handed to threads.

Weights are float, everything on the grid is double. G groups lie one after another in every array. Nothing is kept
between calls, so that any number of threads may make them.

A pass is cut into parts, which `fork`, an entry of the OpenMP library that torch itself runs on, hands to its threads;
without one they are done in turn. Functions return 1 where there was no memory. */

#ifndef LIGHTNING_COMPRESS_PASSES_H
#define LIGHTNING_COMPRESS_PASSES_H

#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* One build runs on every x86 processor and uses what it has. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FAST
#endif

#if defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

/* GOMP_parallel: runs a task on so many threads. */
typedef void (*Fork)(void (*task)(void *), void *data, unsigned threads, unsigned flags);

/* Takes the next part that no thread has taken, or returns parts. */
#if defined(_MSC_VER)
#include <intrin.h>
#define TAKE(next) (_InterlockedExchangeAdd64((next), 1))
#else
#define TAKE(next) (__atomic_fetch_add((next), 1, __ATOMIC_RELAXED))
#endif

INLINE void run(Fork fork, int64_t parts, void (*task)(void *), void *data)
{
    if (fork && parts > 1)
        fork(task, data, (unsigned)parts, 0);
    else
        task(data);
}

#endif
