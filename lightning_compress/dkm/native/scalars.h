/* One weight of scalars, clustered and differentiated: what scalars.c does and layers.c does for many. */

#ifndef LIGHTNING_COMPRESS_SCALARS_H
#define LIGHTNING_COMPRESS_SCALARS_H

#include "passes.h"

/* Weights worth a thread. */
#define LEAST_WEIGHTS (1 << 15)

/* What a clustering ended with; scalars.py tells it by number. */
typedef enum { DONE, NO_MEMORY, NOT_FINITE } Status;

/* A weight of `groups` times `count` scalars, and all that is given and left by its clustering; as layers.py has it.

palettes: (groups, clusters), the first. updated: the last. numbers: the palettes before the first update and after each,
(iterations + 1, groups, clusters), the attention that each update paid, (iterations, groups, clusters), and of each
group where its bins begin, how wide they are, and its range, (4, groups). updates: those made before an early stop,
(groups). places: of the scalars on STEEP panels. room: for `room_for` numbers; what is left in it, `kept` of them, is edges of STEEP panels, (groups, panels + 1),
and masses on the points, (groups, panels * POINTS). Derivatives take the same, with what is kept in `room`. */
typedef struct {
    const float *weight;
    const double *palettes;
    double *numbers, *room, *updated;
    int64_t *updates;
    float *places, *output;
    const float *upstream;
    const double *by_updated;
    float *by_weight;
    double *by_palettes;
    int64_t groups, count, clusters, iterations, fix_zero, skip_zeros;
    double epsilon, temperature, floor, zero_preference;
    int64_t kind, panels, bins, kept, status;
} Layer;

/* Both on so many threads, of which `fork` has the entry, or none: then parts for as many are done in turn. */
Status cluster_layer(Fork fork, int64_t threads, Layer *layer);
Status differentiate_layer(Fork fork, int64_t threads, Layer *layer);

INLINE int64_t parts_for(int64_t threads, int64_t work, int64_t least)
{
    const int64_t most = work / least < threads ? work / least : threads;
    return most > 1 ? most : 1;
}

#endif
