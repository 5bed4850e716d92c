"""A differentiable top k: learn which k pixels are enough to read a digit.

`inclusion_probabilities` gives every pixel the probability to be among the k that are kept, and these are exact, sum to
k and have gradients. A classifier that sees the image through them learns where to look; at the end the k best pixels
alone are kept, and the accuracy on test rows is compared with the k pixels that tell classes apart best one by one, and
with k random ones.

    python examples/top_k_layer.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

import manyhot

K = 8


def main(steps: int = 400, trials: int = 20) -> None:
    """Learn the pixels, and compare."""
    images, classes = load_digits(return_X_y=True)
    split = train_test_split(images / 16, classes, test_size=0.3, random_state=0, stratify=classes)
    x, test_x = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
    y, test_y = (torch.tensor(part) for part in split[2:])

    torch.manual_seed(0)
    mask_logits = torch.zeros(x.shape[1], requires_grad=True)
    weight = torch.zeros(x.shape[1], 10, requires_grad=True)
    bias = torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [mask_logits], "lr": 0.1}, {"params": [weight, bias], "lr": 0.05}])
    for step in range(steps):
        # The logits are sharpened as training goes on: probabilities move towards 0 and 1.
        keep = manyhot.inclusion_probabilities(mask_logits * (1 + step / 100), K)
        loss = F.cross_entropy(x * keep @ weight + bias, y) + 1e-3 * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = mask_logits.topk(K).indices
    probability = manyhot.inclusion_probabilities(mask_logits.detach() * 5, K)[learned].mean()

    def accuracy(pixels: torch.Tensor) -> float:
        model = LogisticRegression(max_iter=2000).fit(x[:, pixels].numpy(), y.numpy())
        return float(model.score(test_x[:, pixels].numpy(), test_y.numpy()))

    # Pixels that are the same in all images have no score.
    scores = torch.tensor(f_classif(x[:, x.std(0) > 0].numpy(), y.numpy())[0])
    alone = (x.std(0) > 0).nonzero().flatten()[scores.topk(K).indices]
    random = [accuracy(torch.randperm(x.shape[1])[:K]) for _ in range(trials)]
    print(f"{K} of {x.shape[1]} pixels; accuracy of a linear classifier on {len(test_y)} test rows")
    print(
        f"  learned by inclusion probabilities  {100 * accuracy(learned):.1f} %  (mean probability {probability:.2f})"
    )
    print(f"  best one by one (ANOVA)             {100 * accuracy(alone):.1f} %")
    print(
        f"  chosen at random, mean of {trials:<10}{100 * sum(random) / trials:.1f} %  (best {100 * max(random):.1f} %)"
    )


if __name__ == "__main__":
    main()
