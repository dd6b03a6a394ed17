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
#define FOR_EACH_PROCESSOR
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

#define LINE 16 /* Floats of a line of a cache. */

/* Asks for memory that is soon read, or written. */
#if defined(__GNUC__)
#define SOON_READ(address) __builtin_prefetch((address), 0)
#define SOON_WRITTEN(address) __builtin_prefetch((address), 1)
#else
#define SOON_READ(address) ((void)(address))
#define SOON_WRITTEN(address) ((void)(address))
#endif

#define POINTS 8 /* On a panel, as in grid.py. */

/* What a pass over points or vectors does; the last two are of vectors alone. Of vectors, OUTPUT_GRADIENTS are through
the output and the last update, UPDATE_GRADIENTS through an earlier one, added to what is there. */
typedef enum { SUM_UP, EVALUATE, OUTPUT_GRADIENTS, UPDATE_GRADIENTS, ASSIGN, LOOK_UP } PassKind;

/* The passes over weights, of places.c, and between bins and points, of panels.c and attention.c. */
int count_places(Fork fork, int64_t parts, const float *places, const float *values, int64_t groups,
                        int64_t count, const double *starts, const double *steps, int64_t size, double *tables);
int interpolate(Fork fork, int64_t parts, const float *places, int64_t groups, int64_t count,
                       const double *starts, const double *steps, int64_t size, const float *chords, float *results);
int chain(Fork fork, int64_t parts, const float *places, const float *upstream, int64_t groups, int64_t count,
                 const double *starts, const double *steps, int64_t size, const float *chords, float *results);
int gather(const double *tables, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                  const double *steps, const double *at_edges, double *points);
int find_chords(const double *points, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                const double *steps, const double *at_edges, int64_t stride, float *chords);
EXPORT int attend_points(Fork fork, int64_t parts, int64_t kind, const double *points, const double *carried,
                         int64_t groups, int64_t size, const double *centroids, const double *first,
                         const double *second, int64_t clusters, double temperature, double floor,
                         double zero_preference, double *sums, double *total, double *on_points);

INLINE void run(Fork fork, int64_t parts, void (*task)(void *), void *data)
{
    if (fork && parts > 1)
        fork(task, data, (unsigned)parts, 0);
    else
        task(data);
}

#endif
