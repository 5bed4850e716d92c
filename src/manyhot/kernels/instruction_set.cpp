// The kernels for one instruction set: CMakeLists.txt compiles this file once for each, with MANYHOT_ISA its name.
#include "blocks.h"

namespace manyhot::MANYHOT_ISA {

template <class T>
Blocks blocks() {
  return {add_block<T>, finish_rows<T>, add_rows<T>, write_block<T>, write_sets<T>, write_product<T>};
}

template Blocks blocks<float>();
template Blocks blocks<double>();

}  // namespace manyhot::MANYHOT_ISA
