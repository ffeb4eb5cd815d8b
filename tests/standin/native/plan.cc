// The two stages of an aclnn operator, and the check of its arguments against limits.py.
#include "tensors.h"
#include <sstream>

// One tensor of an operator: the types that it takes, as bits, and how many dimensions.
struct TensorLimit {
  const char *name;
  uint32_t types, types_910; // on Atlas A2 and later, and on the Atlas training series (Ascend910A)
  int min_rank, max_rank;
};
struct OperatorLimit {
  const char *name;
  TensorLimit tensors[16]; // inputs, then outputs; up to the first without a name
  const char *rules[16];   // as limit.py explains them; up to the first null
  const char *source;      // the page of CANN's documentation; "" where none was found

  size_t n_tensors() const {
    return std::find_if(tensors, tensors + 16, [](auto &one) { return !one.name; }) - tensors;
  }
};
static const OperatorLimit LIMITS[] = {
#include "limits.inc"
};
static const OperatorLimit *limit_of(const char *name) {
  static std::map<std::string, const OperatorLimit *> by_name;
  if (by_name.empty())
    for (auto &limit : LIMITS) by_name[limit.name] = &limit;
  auto found = by_name.find(name);
  return found == by_name.end() ? nullptr : found->second;
}
typedef std::vector<const T *> Tensors;

// Ascend910A and its kin: the Atlas training series. Ascend910B is Atlas A2, Ascend910_93 is Atlas A3.
static bool is_910() {
  std::string name = aclrtGetSocName();
  return name.compare(0, 9, "Ascend910") == 0 && (name.size() == 9 || (name[9] != 'B' && name[9] != '_'));
}

static const std::map<int, const char *> TYPE_NAMES{
    {F32, "float32"}, {F16, "float16"}, {BF16, "bfloat16"}, {I32, "int32"}, {I64, "int64"},
    {F64, "float64"}, {BOOL, "bool"},   {U8, "uint8"},      {I8, "int8"},   {I16, "int16"}};

const char *type_name(int dtype) {
  auto found = TYPE_NAMES.find(dtype);
  return found == TYPE_NAMES.end() ? "?" : found->second;
}

static std::string type_names(uint32_t types) {
  std::string names;
  for (auto &one : TYPE_NAMES)
    if (types >> one.first & 1) names += std::string(names.empty() ? "" : ", ") + one.second;
  return names;
}

std::string show(const T *t) {
  if (!t) return " -";
  std::string text = std::string(" ") + type_name(t->dtype) + "[";
  for (uint64_t i = 0; i < t->ndim; i++) text += (i ? "x" : "") + std::to_string(t->dims[i]);
  return text + "]";
}

// ---- rules among the tensors of an operator ----
// 0 for bool, 1 for integers, 2 for floating point: what promotion never lowers.
static int category(const T *t) { return t->dtype == BOOL ? 0 : integral(t) ? 1 : 2; }

// Whether b's dimensions can be broadcast together with a's; `to` gets the result.
static bool broadcast(const T *a, Dims &to) {
  Dims from = dims(a);
  if (to.size() < from.size()) to.insert(to.begin(), from.size() - to.size(), 1);
  for (size_t i = 0; i < from.size(); i++) {
    int64_t &size = to[to.size() - from.size() + i];
    if (size != from[i] && size != 1 && from[i] != 1) return false;
    if (size == 1) size = from[i];
  }
  return true;
}

static bool holds(const std::string &rule, const Tensors &given) {
  const T *first = given.front(), *last = given.back();
  if (rule == "same_type")
    return std::all_of(given.begin(), given.end(), [&](auto t) { return t->dtype == first->dtype; });
  if (rule == "same_shape")
    return std::all_of(given.begin(), given.end(), [&](auto t) { return dims(t) == dims(first); });
  if (rule == "not_empty") return std::all_of(given.begin(), given.end(), [](auto t) { return count(dims(t)) > 0; });
  if (rule == "not_both_bool") return category(first) || category(last);
  if (rule == "castable")
    return std::all_of(given.begin(), given.end(), [&](auto t) { return category(t) <= category(last); });
  if (rule == "no_bfloat16_mix") { // float16 and float32 are promoted, bfloat16 is not
    int brains = std::count_if(given.begin(), given.end(), [](auto t) { return t->dtype == BF16; });
    return brains == 0 || brains == int(given.size());
  }
  if (rule == "float32_or_same") return last->dtype == F32 || last->dtype == first->dtype;
  if (rule == "broadcast") {
    Dims to = given.size() == 2 ? dims(last) : Dims(); // one tensor is broadcast to a shape, several to a common one
    for (size_t i = 0; i + 1 < given.size(); i++)
      if (!broadcast(given[i], to)) return false;
    return to == dims(last);
  }
  return false;
}

static const std::map<std::string, const char *> RULE_TEXTS{
    {"same_type", "must have one type"},
    {"same_shape", "must have one shape"},
    {"not_empty", "must not be empty"},
    {"not_both_bool", "must not both be bool"},
    {"castable", "are promoted to a type that cannot be cast to the last one's"},
    {"no_bfloat16_mix", "must all be bfloat16 or none"},
    {"float32_or_same", "the second must be float32 or of the first one's type"},
    {"broadcast", "must broadcast to the shape of the last one"},
};

// A rule is its name and the tensors that it is about; tensors that were not given are left out.
static std::string broken_rule(const char *text, const OperatorLimit &limit, const Tensors &tensors) {
  std::istringstream words(text);
  std::string rule, word, names;
  words >> rule;
  Tensors about;
  while (words >> word) {
    names += (names.empty() ? "" : ", ") + word;
    bool known = false;
    for (size_t i = 0; i < limit.n_tensors(); i++)
      if (word == limit.tensors[i].name) {
        known = true;
        if (tensors[i]) about.push_back(tensors[i]);
      }
    if (!known) return "limits.py has a rule about " + word + ", which it does not list";
  }
  auto explained = RULE_TEXTS.find(rule);
  if (explained == RULE_TEXTS.end()) return "limits.py has an unknown rule: " + rule;
  if (about.empty() || holds(rule, about)) return "";
  return names + " " + explained->second;
}

static std::string source_of(const OperatorLimit &limit) {
  return *limit.source ? std::string(" (CANN: ") + limit.source + ")" : " (no documentation found)";
}

std::string outside_limits(const char *name, const Tensors &tensors) {
  const OperatorLimit *found = limit_of(name);
  if (!found) return "tests/standin/limits.py has no entry for it";
  const OperatorLimit &limit = *found;
  std::string source = source_of(limit);
  bool old = is_910();
  for (size_t i = 0; i < tensors.size() && i < limit.n_tensors(); i++) {
    const T *t = tensors[i];
    const TensorLimit &allowed = limit.tensors[i];
    uint32_t types = old ? allowed.types_910 : allowed.types;
    if (!types) return std::string("it is not for ") + aclrtGetSocName() + source;
    if (!t) continue;
    if (!(types >> t->dtype & 1))
      return std::string(allowed.name) + " is" + show(t) + " and must be " + type_names(types) + source;
    if (int(t->ndim) < allowed.min_rank || int(t->ndim) > allowed.max_rank)
      return std::string(allowed.name) + " is" + show(t) + " and must have " + std::to_string(allowed.min_rank) +
             " to " + std::to_string(allowed.max_rank) + " dimensions" + source;
  }
  if (tensors.size() == limit.n_tensors()) // not for an aclop with a list of tensors
    for (const char *const *rule = limit.rules; *rule; rule++) {
      std::string broken = broken_rule(*rule, limit, tensors);
      if (!broken.empty()) return broken + source;
    }
  return "";
}

void refuse(const char *name, const std::string &arguments, const std::string &why) {
  std::string message = name + arguments + ": " + why;
  stub_error(message.c_str());
  fprintf(stderr, "[stand-in] %s\n", message.c_str());
}

// ---- the two stages ----
static std::vector<std::string> &kernel_names() {
  static std::vector<std::string> names;
  return names;
}
bool list_kernel(const char *name) {
  kernel_names().push_back(name);
  return true;
}
// For the tests: every kernel, one per line.
extern "C" const char *standin_kernels() {
  static std::string text;
  text.clear();
  for (auto &name : kernel_names()) text += name + "\n";
  return text.c_str();
}

long plan(const char *name, uint64_t *workspace_bytes, Executor **executor, std::initializer_list<const T *> in,
          std::initializer_list<const T *> out, std::function<void()> run, const std::string &fault) {
  std::string text;
  Tensors tensors;
  for (auto t : in) text += show(t), tensors.push_back(t);
  text += " ->";
  for (auto t : out) text += show(t), tensors.push_back(t);
  std::string wrong = outside_limits(name, tensors);
  if (wrong.empty() && !fault.empty()) wrong = fault + source_of(*limit_of(name));
  if (!wrong.empty()) {
    refuse(name, text, wrong);
    return 161002; // ACLNN_ERR_PARAM_INVALID
  }
  *workspace_bytes = 0;
  *executor = new Executor{EXECUTOR, false, std::move(run), text};
  stub_trace("plan", name, text.c_str());
  return 0;
}

extern "C" {
int aclSetAclOpExecutorRepeatable(Executor *executor) {
  executor->repeatable = true;
  return 0;
}
int aclDestroyAclOpExecutor(Executor *executor) {
  delete executor;
  return 0;
}
}

// An executor is for one launch unless it was made repeatable; then its owner destroys it.
long launch(const char *name, Executor *executor) {
  stub_trace("launch", name, executor->text.c_str());
  long status = 0;
  try {
    if (stub_computes()) executor->run();
  } catch (const NotProvided &what) {
    refuse(name, executor->text, what.text);
    status = 161002;
  }
  if (!executor->repeatable) delete executor;
  return status;
}
