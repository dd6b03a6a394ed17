/* Panels laid out around steep switches, and what their layout shares with that of others. */

#ifndef LIGHTNING_COMPRESS_EDGES_H
#define LIGHTNING_COMPRESS_EDGES_H

#include "layout.h"

#define STEEP_BINS 64
#define SAFETY 1.25
#define PI 3.141592653589793

/* A group's centroids before an iteration, ascending. */
void sorted_palette(const Needs *needs, const double *trace, int64_t step, int64_t group, double *ordered);

/* Chooses edges, or scalars one by one where these were too many. Returns 1 where there was no memory. */
int choose_steep(const Needs *needs, Panels *grid);

#endif
