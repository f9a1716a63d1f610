#include "rattan/kernels/matrix_product.h"

#include "rattan/base/parallel.h"
#include "rattan/kernels/cpu/gemm.h"
#include "rattan/kernels/cpu/scratch.h"

namespace rattan::kernels::RATTAN_ISA {
namespace matrix_product_file {

// B is packed in panels: [panel][k][panel_columns], columns beyond n are 0. One block of a panel (block_k rows) stays
// in the first-level cache while the rows of a task pass by; a task's part of A stays in the second-level one.
constexpr int64_t panel_columns = gemm_vectors * W;
constexpr int64_t block_k = (32 << 10) / (4 * panel_columns);
constexpr int64_t task_rows = 16 * gemm_rows;
constexpr int64_t task_panels = (512 + panel_columns - 1) / panel_columns;
// What is packed at a time.
constexpr int64_t most_k = 1024, most_packed = 1 << 20;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows [k0, k0 + depth) and columns [n0, n0 + width) of b to out [depth][panel_columns].
void pack_panel(const MatrixRef<const float>& b, int64_t k0, int64_t depth, int64_t n0, int64_t width, float* out) {
  for (int64_t c = 0; c < panel_columns; c += W) {
    int64_t i = 0;
    if (c + W <= width && b.column == 1) {
      for (; i < depth; ++i) store(out + i * panel_columns + c, load(b.at(k0 + i, n0 + c)));
    } else if (c + W <= width && b.row == 1) {
      for (; i + W <= depth; i += W)
        transpose_block(b.at(k0 + i, n0 + c), b.column, out + i * panel_columns + c, panel_columns);
    }
    for (; i < depth; ++i) {
      for (int64_t j = c; j < c + W; ++j) out[i * panel_columns + j] = j < width ? *b.at(k0 + i, n0 + j) : 0;
    }
  }
}

// What of A a task reads: in place where its rows are contiguous, else a copy [depth][rows].
struct Left {
  const float* data;
  int64_t row, k;
};
Left left_part(const MatrixRef<const float>& a, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* copy) {
  if (a.column == 1) return {a.at(row, k0), a.row, 1};
  for (int64_t i = 0; i < depth; ++i) {
    const float* from = a.at(row, k0 + i);
    float* to = copy + i * task_rows;
    int64_t r = 0;
    if (a.row == 1) {
      for (; r + W <= rows; r += W) store(to + r, load(from + r));
    }
    for (; r < rows; ++r) to[r] = from[r * a.row];
  }
  return {copy, 1, task_rows};
}

// The part of the product that is packed at one time.
struct Part {
  int64_t k0, depth, n0, width;
  const float* packed;
};

void run_task(const MatrixProduct& p, const Part& part, int64_t row, int64_t first_panel) {
  const int64_t rows = least(task_rows, p.m - row);
  Scratch scratch(Scratch::size<float>(most_k * task_rows) + Scratch::size<float>(task_rows * panel_columns));
  float* copy = scratch.take<float>(most_k * task_rows);
  float* tail = scratch.take<float>(task_rows * panel_columns);
  const Left a = left_part(p.a, row, rows, part.k0, part.depth, copy);
  const int64_t panels = least(first_panel + task_panels, ceil_div(part.width, panel_columns));
  for (int64_t panel = first_panel; panel < panels; ++panel) {
    const float* b = part.packed + panel * part.depth * panel_columns;
    const int64_t column = panel * panel_columns, width = least(panel_columns, part.width - column);
    float* c = p.c.at(row) + part.n0 + column;
    float* target = width < panel_columns ? tail : c;
    const int64_t target_row = width < panel_columns ? panel_columns : p.c.row;
    if (target == tail && part.k0 > 0) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < panel_columns; ++i) tail[r * panel_columns + i] = i < width ? c[r * p.c.row + i] : 0;
      }
    }
    for (int64_t i = 0; i < part.depth; i += block_k) {
      gemm_columns<gemm_vectors>(rows, least(block_k, part.depth - i), a.data + i * a.k, a.row, a.k,
                                 b + i * panel_columns, panel_columns, target, target_row, part.k0 + i > 0);
    }
    if (target == tail) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < width; ++i) c[r * p.c.row + i] = tail[r * panel_columns + i];
      }
    }
  }
}

}  // namespace matrix_product_file

void matrix_product(const MatrixProduct& p) {
  using namespace matrix_product_file;
  if (p.m <= 0 || p.n <= 0) return;
  if (p.k <= 0) {
    for (int64_t r = 0; r < p.m; ++r) {
      for (int64_t i = 0; i < p.n; ++i) p.c.at(r)[i] = 0;
    }
    return;
  }
  const int64_t deepest = least(most_k, round_up(p.k, block_k));
  const int64_t widest = least(round_up(p.n, panel_columns), most_packed / deepest / panel_columns * panel_columns);
  Scratch scratch(Scratch::size<float>(deepest * widest));
  float* packed = scratch.take<float>(deepest * widest);
  for (int64_t n0 = 0; n0 < p.n; n0 += widest) {
    for (int64_t k0 = 0; k0 < p.k; k0 += deepest) {
      const Part part{k0, least(deepest, p.k - k0), n0, least(widest, p.n - n0), packed};
      const int64_t panels = ceil_div(part.width, panel_columns);
      parallel_for(panels, [&](int64_t panel) {
        const int64_t column = panel * panel_columns;
        pack_panel(p.b, k0, part.depth, n0 + column, least(panel_columns, part.width - column),
                   packed + panel * part.depth * panel_columns);
      });
      const int64_t strips = ceil_div(panels, task_panels);
      parallel_for(ceil_div(p.m, task_rows) * strips,
                   [&](int64_t task) { run_task(p, part, task / strips * task_rows, task % strips * task_panels); });
    }
  }
}

}  // namespace rattan::kernels::RATTAN_ISA
