/* Where the points of a group of scalars are: on equal panels, on panels laid around steep switches, or at the scalars
themselves. As panels.py and grid.py. */

#ifndef LIGHTNING_COMPRESS_LAYOUT_H
#define LIGHTNING_COMPRESS_LAYOUT_H

#include "passes.h"

#define MOST_PANELS (1 << 14) /* More than this, or than a POINTS-th of the scalars, and these are taken one by one. */

typedef enum { ONE_BY_ONE, EQUAL, STEEP } Kind;

/* Panels of all groups; places of scalars, for which there must be room, are bins where panels are STEEP, and scalars
themselves where they are EQUAL.

edges: (groups, panels + 1), of STEEP panels alone. starts, steps: of bins, (groups). points: (groups, points_size). */
typedef struct {
    Kind kind;
    int64_t panels, bins, points_size;
    double *starts, *steps, *edges, *points, *at_edges;
    float *places;
} Panels;

/* What has to be resolved: the range of each group, and its palettes before so many iterations, trace (iterations,
groups, clusters). */
typedef struct {
    int64_t groups, count, clusters, known;
    const double *low, *high, *trace;
    double temperature;
} Needs;

/* Panels that so many scalars of a group are worth. */
INLINE int64_t most_panels(int64_t count) { return count / POINTS < MOST_PANELS ? count / POINTS : MOST_PANELS; }

/* Chooses kind, panels, bins, and edges or starts and steps, for which there must be room: for two more edges than panels
that scalars are worth, of each group. Returns 1 where there was no memory. */
int choose_panels(const Needs *needs, Panels *grid);

/* Whether panels also resolve the palettes that the iterations on them really went through. */
int resolves(const Needs *needs, const Panels *grid, const double *planned, int64_t planned_known);

/* Makes points, and places of STEEP panels unless these are found. Returns 1 where there was no memory. */
int fill_panels(Fork fork, int64_t parts, const float *weight, int64_t groups, int64_t count, int found, Panels *grid);

void free_panels(Panels *grid);

#endif
