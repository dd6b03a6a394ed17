/* Between the bins of a grid and the points of its panels. As passes.py. */

#include "passes.h"

#include <stdlib.h>
#include <string.h>

/* What lies in bins, with its moments, gathered on the points of their panels. at_edges: (POINTS, bins + 1). */
FAST int gather(const double *tables, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                       const double *steps, const double *at_edges, double *points)
{
    double *edges = malloc((size_t)(bins + 1) * sizeof(double));
    if (!edges)
        return 1;
    for (int64_t group = 0; group < groups; group++) {
        const double start = starts[group], step = steps[group], scale = 1 / step;
        for (int64_t panel = 0; panel < panels; panel++) {
            const double *entry = tables + (group * panels + panel) * bins * 2;
            memset(edges, 0, (size_t)(bins + 1) * sizeof(double));
            for (int64_t bin = 0; bin < bins; bin++) {
                const double place = start + step * (double)(panel * bins + bin);
                const double right = (entry[2 * bin + 1] - place * entry[2 * bin]) * scale;
                edges[bin] += entry[2 * bin] - right;
                edges[bin + 1] += right;
            }
            for (int k = 0; k < POINTS; k++) {
                const double *at = at_edges + k * (bins + 1);
                double sum = 0;
                for (int64_t edge = 0; edge <= bins; edge++)
                    sum += edges[edge] * at[edge];
                points[(group * panels + panel) * POINTS + k] = sum;
            }
        }
    }
    free(edges);
    return 0;
}

/* Intercepts and slopes of a function's chords over all bins, from its values on the points; those of the next bin come
`stride` floats after. */
FAST int find_chords(const double *points, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                     const double *steps, const double *at_edges, int64_t stride, float *chords)
{
    double *values = malloc((size_t)(bins + 1) * sizeof(double));
    if (!values)
        return 1;
    for (int64_t group = 0; group < groups; group++) {
        const double start = starts[group], step = steps[group], scale = 1 / step;
        for (int64_t panel = 0; panel < panels; panel++) {
            const int64_t first = panel * bins;
            float *chord = chords + (group * panels + panel) * bins * stride;
            memset(values, 0, (size_t)(bins + 1) * sizeof(double));
            for (int k = 0; k < POINTS; k++) {
                const double *at = at_edges + k * (bins + 1), point = points[(group * panels + panel) * POINTS + k];
                for (int64_t edge = 0; edge <= bins; edge++)
                    values[edge] += point * at[edge];
            }
            for (int64_t bin = 0; bin < bins; bin++) {
                const double steepness = (values[bin + 1] - values[bin]) * scale;
                chord[bin * stride] = (float)(values[bin] - steepness * (start + step * (double)(first + bin)));
                chord[bin * stride + 1] = (float)steepness;
            }
        }
    }
    free(values);
    return 0;
}
