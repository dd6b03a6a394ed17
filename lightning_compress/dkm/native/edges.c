/* Where the edges of panels lie that are laid out around steep switches. As panels.py, which explains it. */

#include "edges.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_PLACES 64
#define MOST_PLACES (1 << 13)
#define STEPS 48

static int by_value(const void *one, const void *other)
{
    const double difference = *(const double *)one - *(const double *)other;
    return difference > 0 ? 1 : difference < 0 ? -1 : 0;
}

void sorted_palette(const Needs *needs, const double *trace, int64_t step, int64_t group, double *ordered)
{
    memcpy(ordered, trace + (step * needs->groups + group) * needs->clusters,
           (size_t)needs->clusters * sizeof(double));
    qsort(ordered, (size_t)needs->clusters, sizeof(double), by_value);
}

/* What the switches of one palette allow, each at its place: `greatest` is the square of the rate in its middle, and
`fall` how many widths a unit of distance is. */
typedef struct {
    const double *middle, *greatest, *fall;
    int64_t count;
} Switches;

/* The square of the rate of change that the switches on either side of a place allow polynomials to be told at; `next`
is where the switch to its right was found before, places ascending. */
INLINE double squared_rate_at(double place, const Switches *switches, int64_t *next)
{
    while (*next < switches->count && switches->middle[*next] < place)
        ++*next;
    double rate = 0;
    for (int side = 0; side < 2; side++) {
        int64_t index = *next - side;
        index = index < 0 ? 0 : index > switches->count - 1 ? switches->count - 1 : index;
        const double distance = switches->fall[index] * (place - switches->middle[index]);
        const double own = switches->greatest[index] / (1 + distance * distance);
        rate = own > rate ? own : rate;
    }
    return rate;
}

/* Merges ascending runs, which end where `ends` says, until one is left. */
static void merge_runs(double *values, double *spare, int64_t *ends, int64_t runs)
{
    const int64_t all = ends[runs - 1];
    for (; runs > 1; runs = (runs + 1) / 2) {
        int64_t out = 0, start = 0;
        for (int64_t run = 0; run < runs; run += 2) {
            int64_t one = start, other = ends[run];
            const int64_t middle = other, end = run + 1 < runs ? ends[run + 1] : other;
            while (one < middle && other < end) {
                const int first = values[one] <= values[other];
                spare[out++] = first ? values[one] : values[other];
                one += first;
                other += !first;
            }
            while (one < middle)
                spare[out++] = values[one++];
            while (other < end)
                spare[out++] = values[other++];
            ends[run / 2] = start = end;
        }
        memcpy(values, spare, (size_t)all * sizeof(double));
    }
}

/* As many places as there can be. */
INLINE int64_t most_places_of(int64_t switches) { return MOST_PLACES + 2 * STEPS * switches; }

/* Places at which the width that panels may have is computed, ascending; their number is the result. Room for as many
in `spare`, and for a number a switch and one more in `ends`. */
static int64_t find_places(double low, double high, const double *middles, const double *gaps, int64_t switches,
                           double temperature, double *places, double *spare, int64_t *ends)
{
    const double soft = sqrt(temperature / 2);
    int64_t count = 0, runs = 0, soft_ones = 0;
    for (int64_t i = 0; i < switches; i++)
        soft_ones += gaps[i] <= 2 * soft;
    const double most = soft_ones ? fmin(4 * (high - low) / soft, MOST_PLACES) : 0;
    const int64_t everywhere = (int64_t)fmax(most, LEAST_PLACES);
    for (int64_t i = 0; i < everywhere; i++)
        places[count++] = low + (high - low) * (double)i / (double)(everywhere - 1);
    ends[runs++] = count;
    for (int64_t i = 0; i < switches; i++) {
        if (gaps[i] <= 2 * soft)
            continue;
        const double scale = temperature / gaps[i], reach = asinh((high - low) / scale);
        double away[STEPS];
        for (int step = 0; step < STEPS; step++)
            away[step] = sinh(reach * step / (STEPS - 1)) * scale;
        for (int step = 1 - STEPS; step < STEPS; step++) {
            const double place = step < 0 ? middles[i] - away[-step] : middles[i] + away[step];
            if (place >= low && place <= high)
                places[count++] = place;
        }
        ends[runs++] = count;
    }
    merge_runs(places, spare, ends, runs);
    int64_t distinct = 1;
    for (int64_t i = 1; i < count; i++)
        if (places[i] > places[distinct - 1])
            places[distinct++] = places[i];
    return distinct;
}

/* Edges of the panels of one group, each exactly a float; the room is that of choose_steep. The number of panels is the
result, one more than `most` if there are too many. */
static int64_t find_edges(const Needs *needs, int64_t group, int64_t most, double *room, double *edges)
{
    const double low = needs->low[group], high = needs->high[group];
    const int64_t switches = needs->clusters - 1, all = switches * needs->known;
    const int64_t most_places = most_places_of(all);
    double *middles = room, *gaps = middles + all, *greatest = gaps + all, *fall = greatest + all;
    double *ordered = fall + all, *places = ordered + needs->clusters, *phase = places + most_places;
    int64_t *ends = (int64_t *)(phase + most_places);
    const double end = nextafterf((float)high, INFINITY), temperature = needs->temperature;
    edges[0] = low;
    edges[1] = end;
    if (!(high > low) || switches < 1)
        return 1;
    for (int64_t step = 0; step < needs->known; step++) {
        sorted_palette(needs, needs->trace, step, group, ordered);
        for (int64_t k = 0; k < switches; k++) {
            const double gap = ordered[k + 1] - ordered[k], effective = fmax(gap, sqrt(2 * temperature));
            const int64_t at = step * switches + k;
            middles[at] = (ordered[k + 1] + ordered[k]) / 2;
            gaps[at] = gap;
            greatest[at] = effective / temperature * (effective / temperature);
            fall[at] = 2 * effective / temperature / PI;
        }
    }
    const int64_t count = find_places(low, high, middles, gaps, all, temperature, places, phase, ends);
    memset(phase, 0, (size_t)count * sizeof(double));
    for (int64_t first = 0; first < all; first += switches) {
        const Switches own = {middles + first, greatest + first, fall + first, switches};
        int64_t next = 0;
        for (int64_t i = 0; i < count; i++) {
            const double rate = squared_rate_at(places[i], &own, &next);
            phase[i] = rate > phase[i] ? rate : phase[i];
        }
    }
    double before = sqrt(phase[0]), sum = 0;
    phase[0] = 0;
    for (int64_t i = 1; i < count; i++) {
        const double rate = sqrt(phase[i]);
        sum += (places[i] - places[i - 1]) * (rate + before) / 2 * SAFETY;
        before = rate;
        phase[i] = sum;
    }
    if (!(sum <= (double)most))
        return most + 1;
    const int64_t panels = sum > 1 ? (int64_t)ceil(sum) : 1;
    int64_t found = 1, place = 0;
    for (int64_t edge = 1; edge < panels; edge++) {
        const double at = sum * (double)edge / (double)panels;
        while (place + 2 < count && phase[place + 1] < at)
            place++;
        const double part = (at - phase[place]) / (phase[place + 1] - phase[place]);
        const double value = (float)(places[place] + part * (places[place + 1] - places[place]));
        if (value > edges[found - 1] && value < end)
            edges[found++] = value;
    }
    edges[found] = end;
    return found;
}

int choose_steep(const Needs *needs, Panels *grid)
{
    const int64_t all = (needs->clusters - 1) * needs->known, places = most_places_of(all);
    const int64_t most = most_panels(needs->count);
    /* Switches, a palette, places and phases, and the ends of runs, which are as long as other numbers. */
    double *room = malloc((size_t)(4 * all + needs->clusters + 2 * places + all + 1) * sizeof(double));
    int64_t panels[2] = {0, 0};
    if (!room)
        return 1;
    /* Found once for the greatest number, and again to leave as much room for each. */
    for (int round = 0; round < 2 && panels[0] <= most; round++)
        for (int64_t group = 0; group < needs->groups && (round == 0 || needs->groups > 1); group++) {
            double *edges = grid->edges + (round ? group * (panels[0] + 1) : 0);
            const int64_t found = find_edges(needs, group, most, room, edges);
            panels[round] = found > panels[round] ? found : panels[round];
            /* More panels above the last edge, which no weight falls into. */
            for (int64_t edge = found + 1; round && edge <= panels[0]; edge++)
                edges[edge] = edges[edge - 1] + (edges[found] - edges[found - 1]);
        }
    free(room);
    grid->kind = panels[0] > most || needs->count <= panels[0] * POINTS ? ONE_BY_ONE : STEEP;
    grid->panels = panels[0];
    grid->bins = STEEP_BINS;
    return 0;
}
