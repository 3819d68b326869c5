// The sampling inputs of programs (artifacts/convention.py). Written by
// `python -m gemma3_export.artifacts.sampling_header`; change the table there.
//
// X(name, C type, dtype, neutral, least, most, least itself excluded, least fed, most fed,
//   range in words, flag, metavar, help, means something at temperature 0)
#ifndef GEMMA3_SRC_SAMPLING_TABLE_H_
#define GEMMA3_SRC_SAMPLING_TABLE_H_

#define GEMMA3_SAMPLING(X) \
  X(temperature, float, "float32", 0.0, 0.0, 1.7976931348623157e+308, false, 1e-06, 1000000.0, "a finite number of at least 0 (0 is greedy)", "--temperature", "T", "Randomness; 0, the default, is greedy: always the likeliest token.", true) \
  X(top_k, int32_t, "int32", 0.0, 0.0, 2147483647.0, false, 0.0, 2147483647.0, "0 to 2147483647 (0 is off)", "--top-k", "K", "Draw from the K likeliest tokens; 0, the default, is off.", false) \
  X(top_p, float, "float32", 1.0, 0.0, 1.0, true, 1e-30, 1.0, "above 0 and at most 1 (1 is off)", "--top-p", "P", "Draw from the likeliest tokens that make up P; 1, the default, is off.", false) \
  X(min_p, float, "float32", 0.0, 0.0, 1.0, false, 0.0, 1.0, "between 0 and 1 (0 is off)", "--min-p", "P", "Draw from tokens at least P times as likely as the first; 0 is off.", false) \
  X(seed, uint32_t, "uint32", 0.0, 0.0, 4294967295.0, false, 0.0, 4294967295.0, "between 0 and 4294967295", "--seed", "S", "The same seed gives the same text; 0 by default.", true) \
  X(repetition_penalty, float, "float32", 1.0, 0.0, 1.7976931348623157e+308, true, 1e-06, 1000000.0, "a finite number above 0 (1 is off)", "--repetition-penalty", "R", "Divide the logits of tokens that are in the text already by R; 1, the default, is off.", true)

#endif  // GEMMA3_SRC_SAMPLING_TABLE_H_
