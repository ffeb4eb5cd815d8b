// ge:: members that must hand back a valid object (old std::string ABI, as MindSpore's wheel).
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>
namespace ge {
struct StatusFactory {
  std::map<uint32_t, std::string> desc;
  static StatusFactory *Instance();
};
StatusFactory *StatusFactory::Instance() {
  static StatusFactory *s = new StatusFactory[4];
  return s;
}
struct Obj {
  std::shared_ptr<void> p;
};
class Operator { // vtable, shared_ptr impl
public:
  virtual ~Operator() = default;
  std::shared_ptr<void> impl;
  std::string GetName() const;
  std::string GetOpType() const;
};
std::string Operator::GetName() const { return "stand_in"; }
std::string Operator::GetOpType() const { return "stand_in"; }
class OperatorFactory {
public:
  static Operator CreateOperator(const char *, const char *);
  static Operator CreateOperator(const std::string &, const std::string &);
  static bool IsExistOp(const char *);
  static bool IsExistOp(const std::string &);
};
Operator OperatorFactory::CreateOperator(const char *, const char *) { return Operator(); }
Operator OperatorFactory::CreateOperator(const std::string &, const std::string &) { return Operator(); }
bool OperatorFactory::IsExistOp(const char *) { return true; }
bool OperatorFactory::IsExistOp(const std::string &) { return true; }
class Shape {
public:
  std::shared_ptr<void> p;
  std::vector<int64_t> GetDims() const;
};
std::vector<int64_t> Shape::GetDims() const { return {}; }
struct TensorDesc {
  std::shared_ptr<void> p;
  Shape GetShape() const;
  Shape GetOriginShape() const;
};
Shape TensorDesc::GetShape() const { return {}; }
Shape TensorDesc::GetOriginShape() const { return {}; }
struct Tensor {
  std::shared_ptr<void> p;
  TensorDesc GetTensorDesc() const;
};
TensorDesc Tensor::GetTensorDesc() const { return {}; }
} // namespace ge
