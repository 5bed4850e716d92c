// What the drivers share: random numbers, and problem after problem until the time is over.
//
//   driver SECONDS [SEED]   problems SEED, SEED + 1, ...
//
// Exit 1 describes the first problem that differs; `driver 0 SEED` runs that one again.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>

// Not the distributions of <random>, which differ from one standard library to the next.
struct Random {
  std::mt19937_64 engine;
  int64_t below(int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t first, int64_t last) { return first + below(last - first + 1); }
  double uniform(double from = 0, double to = 1) {
    return from + (to - from) * static_cast<double>(engine() >> 11) * 0x1p-53;
  }
  bool chance(double p) { return uniform() < p; }
  double sign() { return chance(0.5) ? 1 : -1; }
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
  template <class T>
  T any_of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int64_t>(values.size()))];
  }
};

// Of exactly the size that is used, so that AddressSanitizer sees what is read beside it.
template <class T>
struct Exactly {
  std::unique_ptr<T[]> data;
  explicit Exactly(int64_t size) : data(new T[size]()) {}
  T& operator[](int64_t i) { return data[i]; }
  const T& operator[](int64_t i) const { return data[i]; }
};

// solve(seed, found) says whether a problem agrees, and in `found` where it does not.
template <class Solve>
int run_problems(int count, char** arguments, const std::string& kind, const Solve& solve) {
  if (count < 2) return std::printf("usage: %s SECONDS [SEED]\n", arguments[0]), 2;
  const double seconds = std::atof(arguments[1]);
  const uint64_t first = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
  const auto start = std::chrono::steady_clock::now();
  std::string found;
  uint64_t seed = first;
  do {
    if (!solve(seed, found))
      return std::printf("%s 0 %llu\n%s\n", arguments[0], (unsigned long long)seed, found.c_str()), 1;
    ++seed;
  } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds);
  std::printf("%llu %s agree, seeds %llu to %llu\n", (unsigned long long)(seed - first), kind.c_str(),
              (unsigned long long)first, (unsigned long long)(seed - 1));
  return 0;
}
