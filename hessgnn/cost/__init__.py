"""What Hessians cost, and what is the least to pay for them."""
